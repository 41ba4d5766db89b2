// Package crash holds the tests of what is left when berthd, the disk or the power
// fails: a berthd built with failpoints is killed at each of its steps and at random
// ones while it pulls, mounts and removes, and is given disks that are full, broken,
// read-only, or as a power loss leaves them.
//
// After each: the store opens, every layer is what its archive says, every image that
// is listed runs, nothing stays that nothing refers to, and the next pull succeeds.
package crash

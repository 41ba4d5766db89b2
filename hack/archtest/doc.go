// Package archtest holds the tests of what docs/architecture.md says about packages.
package archtest

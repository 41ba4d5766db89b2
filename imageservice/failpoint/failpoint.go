// Package failpoint gives names to the steps of the image service at which a test
// lets it die, fail or wait. Only programs built with the tag "failpoint" have
// them; in all others a point is an empty function that the compiler leaves out.
//
// In such a program the environment chooses one point:
//
//	BERTH_FAILPOINT=store/commit/rename          is killed when it gets there
//	BERTH_FAILPOINT=store/commit/rename=kill@3   the third time it does
//	BERTH_FAILPOINT=store/record/write=ENOSPC@2+ fails from the second time on
//	BERTH_FAILPOINT=layer/entry=sleep:50ms@1+    waits every time
//	BERTH_FAILPOINT=*=kill@120                   at the 120th step, whichever it is
//	BERTH_FAILPOINT_HITS=/path                   writes down which points it passed,
//	                                             and "hit" when the chosen one acts
//
// Errors are EIO, ENOSPC, EDQUOT and EROFS.
package failpoint

// The variables that programs with failpoints read.
const (
	Env     = "BERTH_FAILPOINT"
	HitsEnv = "BERTH_FAILPOINT_HITS"
)

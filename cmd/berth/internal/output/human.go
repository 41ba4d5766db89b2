package output

import (
	"time"

	units "github.com/docker/go-units"
)

// Size writes a number of bytes as "12.3MB", in powers of 1000 as crictl does.
func Size(bytes uint64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

// Ago writes a time as "3 minutes ago"; the zero time, and that of the Unix
// epoch that CRI sends for "never", as "-".
func Ago(now, t time.Time) string {
	if t.IsZero() || t.UnixNano() == 0 {
		return "-"
	}
	return units.HumanDuration(now.Sub(t)) + " ago"
}

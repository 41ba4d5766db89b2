package idmap

import "testing"

func TestRanges(t *testing.T) {
	r := Ranges{{Container: 0, Host: 100000, Length: 1000}, {Container: 5000, Host: 7, Length: 2}}
	for host, want := range map[uint32]uint32{100000: 0, 100999: 999, 101000: Overflow, 99999: Overflow, 0: Overflow, 7: 5000, 8: 5001, 9: Overflow} {
		if got := r.Inside(host); got != want {
			t.Errorf("%d of the node is %d inside, want %d", host, got, want)
		}
		if want == Overflow {
			continue
		}
		if got, ok := r.Outside(want); !ok || got != host {
			t.Errorf("%d inside is %d, %t on the node, want %d", want, got, ok, host)
		}
	}
	if got, ok := r.Outside(1000); ok {
		t.Errorf("an ID that is not mapped is %d", got)
	}
	var none Ranges
	if got, ok := none.Outside(42); got != 42 || !ok || none.Inside(42) != 42 {
		t.Error("no ranges change an ID")
	}
}

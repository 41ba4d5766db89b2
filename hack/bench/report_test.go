package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// twoRuntimes is a report with one latency and one rate of two runtimes.
func twoRuntimes() *report {
	a, b := &target{name: "a", version: "a 1"}, &target{name: "b", version: "b <2>"}
	r := newReport([]*target{a, b})
	for _, v := range []float64{30, 10, 20} {
		r.add("pod up", milliseconds, a, v)
		r.add("pod up", milliseconds, b, 4*v)
	}
	r.add("– part", milliseconds, a, 1)
	r.add("rate", perSecond, b, 123.4)
	return r
}

func TestFiguresUseTheMedianOfEachRuntime(t *testing.T) {
	r := twoRuntimes()
	if got := r.Figures[0].quantile("a", 0.5); got != 20 {
		t.Errorf("median of a: %v, want 20", got)
	}
	if got := r.Figures[0].quantile("b", 0.9); got != 120 {
		t.Errorf("p90 of b: %v, want 120", got)
	}
	if got := r.Figures[0].ratio(r.names); got != 0.25 {
		t.Errorf("ratio: %v, want 0.25", got)
	}
}

func TestTableShowsARuntimeWithoutSamplesAsADash(t *testing.T) {
	rows := twoRuntimes().rows()
	want := []string{"rate", "/s", "–", "–", "123", "123", "NaN"}
	if got := rows[len(rows)-1]; strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("row %q, want %q", got, want)
	}
}

func TestChartIsXMLWithOneBarForEachMedian(t *testing.T) {
	var out bytes.Buffer
	if err := twoRuntimes().chart(&out); err != nil {
		t.Fatal(err)
	}
	bars := 0
	for decoder := xml.NewDecoder(&out); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("chart is no XML: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	// The background, two of the legend, two of "pod up", one of "rate"; none of the part.
	if bars != 6 {
		t.Errorf("%d rectangles, want 6", bars)
	}
}

func TestJSONKeepsEverySample(t *testing.T) {
	var out bytes.Buffer
	if err := twoRuntimes().json(&out); err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(out.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Figures[0].Samples["b"]; len(got) != 3 {
		t.Errorf("samples of b: %v, want three", got)
	}
}

func TestRuntimeFlagMustNameASocket(t *testing.T) {
	for _, spec := range []string{"", "berth", "=unix:///x", "berth="} {
		if _, err := connect(t.Context(), spec); err == nil {
			t.Errorf("%q was accepted", spec)
		}
	}
}

func TestFloorIsAColumnOfTheFiguresThatHaveOne(t *testing.T) {
	r := twoRuntimes()
	if len(r.rows()[0]) != 7 {
		t.Errorf("heading %q of a report without floors", r.rows()[0])
	}
	r.addFloor("pod up", 10)
	rows := r.rows()
	if got := strings.Join(rows[1][6:], "|"); got != "0.25|10.0|2.00" {
		t.Errorf("row of a figure with a floor ends with %q", got)
	}
	if got := strings.Join(rows[2][6:], "|"); got != "0.25|–|–" && got != "NaN|–|–" {
		t.Errorf("row of a figure without a floor ends with %q", got)
	}
}

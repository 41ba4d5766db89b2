package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// The units of the figures. All but a rate are the better the smaller.
const (
	milliseconds = "ms"
	mebibytes    = "MiB"
	percent      = "% of a core"
	perSecond    = "/s"
)

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// report collects samples by figure and runtime, in the order they first came in.
type report struct {
	Machine  string            `json:"machine"`
	Date     string            `json:"date"`
	Versions map[string]string `json:"versions"`
	Figures  []*figure         `json:"figures"`

	names []string
}

// figure is one row: the samples of each runtime.
type figure struct {
	Name    string               `json:"name"`
	Unit    string               `json:"unit"`
	Samples map[string][]float64 `json:"samples"`
	// Floor are the samples of what the machine needs for the same without a runtime.
	Floor []float64 `json:"floor,omitempty"`
}

func newReport(targets []*target) *report {
	r := &report{Machine: machine(), Date: time.Now().UTC().Format(time.DateOnly), Versions: map[string]string{}}
	for _, t := range targets {
		r.names = append(r.names, t.name)
		r.Versions[t.name] = t.version
	}
	return r
}

func (r *report) add(name, unit string, t *target, value float64) {
	f := r.figure(name)
	if f == nil {
		f = &figure{Name: name, Unit: unit, Samples: map[string][]float64{}}
		r.Figures = append(r.Figures, f)
	}
	f.Samples[t.name] = append(f.Samples[t.name], value)
}

// addFloor adds to a figure that has samples.
func (r *report) addFloor(name string, value float64) {
	f := r.figure(name)
	f.Floor = append(f.Floor, value)
}

func (r *report) figure(name string) *figure {
	i := slices.IndexFunc(r.Figures, func(f *figure) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return r.Figures[i]
}

// quantile is the q-quantile of a runtime's samples, NaN where there are none.
func (f *figure) quantile(name string, q float64) float64 { return quantile(f.Samples[name], q) }

func quantile(samples []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	if len(s) == 0 {
		return math.NaN()
	}
	return s[int(math.Round(q*float64(len(s)-1)))]
}

// ratio is the first runtime's median in units of the second's.
func (f *figure) ratio(names []string) float64 {
	if len(names) < 2 {
		return math.NaN()
	}
	return f.quantile(names[0], 0.5) / f.quantile(names[1], 0.5)
}

func (r *report) write(opts options) error {
	if err := r.table(os.Stdout); err != nil {
		return err
	}
	outputs := []struct {
		path  string
		write func(io.Writer) error
	}{
		{opts.json, r.json},
		{opts.svg, r.chart},
		{opts.markdown, r.markdown},
	}
	for _, o := range outputs {
		if o.path == "" {
			continue
		}
		if err := writeFileWith(o.path, o.write); err != nil {
			return fmt.Errorf("write %s: %w", o.path, err)
		}
	}
	return nil
}

func writeFileWith(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(file); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

func (r *report) json(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// rows are the cells of the table, the heading first.
func (r *report) rows() [][]string {
	heading := []string{"figure", "unit"}
	for _, name := range r.names {
		heading = append(heading, name+" p50", "p90")
	}
	if len(r.names) == 2 {
		heading = append(heading, "ratio")
	}
	floors := slices.ContainsFunc(r.Figures, func(f *figure) bool { return len(f.Floor) > 0 })
	if floors {
		heading = append(heading, "floor", "of floor")
	}
	rows := [][]string{heading}
	for _, f := range r.Figures {
		row := []string{f.Name, f.Unit}
		for _, name := range r.names {
			row = append(row, number(f.quantile(name, 0.5)), number(f.quantile(name, 0.9)))
		}
		if len(r.names) == 2 {
			row = append(row, fmt.Sprintf("%.2f", f.ratio(r.names)))
		}
		if floors {
			floor := quantile(f.Floor, 0.5)
			row = append(row, number(floor), number(f.quantile(r.names[0], 0.5)/floor))
		}
		rows = append(rows, row)
	}
	return rows
}

// number has three significant digits, or all those before the point.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func (r *report) table(w io.Writer) error {
	fmt.Fprintf(w, "%s, %s\n", r.Machine, r.Date)
	for _, name := range r.names {
		fmt.Fprintf(w, "%s: %s\n", name, r.Versions[name])
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range r.rows() {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

func (r *report) markdown(w io.Writer) error {
	fmt.Fprintf(w, "Measured on %s: %s.\n\n", r.Date, r.Machine)
	for _, name := range r.names {
		fmt.Fprintf(w, "- %s: %s\n", name, r.Versions[name])
	}
	fmt.Fprintln(w)
	for i, row := range r.rows() {
		fmt.Fprintln(w, "| "+strings.Join(row, " | ")+" |")
		if i == 0 {
			fmt.Fprintln(w, "| --- | --- |"+strings.Repeat(" ---: |", len(row)-2))
		}
	}
	return nil
}

package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// The chart's measures, in pixels.
const (
	chartLabels = 330 // the column of figure names
	chartBars   = 420 // the longest bar
	chartValues = 110 // the column of values behind the bars
	chartBar    = 12
	chartGap    = 14
	chartTop    = 46
)

var chartColours = []string{"#1f77b4", "#c7c7c7"}

// chart draws the medians as horizontal bars, each figure scaled to its longest bar.
// Parts of a figure (named "– …") are left to the table.
func (r *report) chart(w io.Writer) error {
	var figures []*figure
	for _, f := range r.Figures {
		if !strings.HasPrefix(f.Name, "– ") {
			figures = append(figures, f)
		}
	}
	row := chartBar*len(r.names) + chartGap
	width, height := chartLabels+chartBars+chartValues, chartTop+row*len(figures)+chartGap
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for i, name := range r.names {
		x := chartLabels + i*chartBars/2
		fmt.Fprintf(&b, `<rect x="%d" y="14" width="12" height="12" fill="%s"/><text x="%d" y="24">%s</text>`+"\n",
			x, chartColours[i], x+18, html.EscapeString(r.Versions[name]))
	}
	for i, f := range figures {
		y := chartTop + i*row
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n",
			chartLabels-8, y+row/2-chartGap/2+4, html.EscapeString(f.Name))
		r.bars(&b, f, y)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) bars(b *strings.Builder, f *figure, y int) {
	var longest float64
	for _, name := range r.names {
		longest = math.Max(longest, f.quantile(name, 0.5))
	}
	for i, name := range r.names {
		value := f.quantile(name, 0.5)
		if math.IsNaN(value) {
			continue
		}
		length := 1.0
		if longest > 0 {
			length = math.Max(1, value/longest*chartBars)
		}
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.0f" height="%d" fill="%s"/><text x="%.0f" y="%d" font-size="10">%s %s</text>`+"\n",
			chartLabels, y+i*chartBar, length, chartBar-1, chartColours[i],
			chartLabels+length+4, y+i*chartBar+chartBar-2, number(value), html.EscapeString(f.Unit))
	}
}

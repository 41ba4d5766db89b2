package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// listFlags are the flags that all lists have.
type listFlags struct {
	id, name string
	labels   []string
	state    string
	latest   bool
	last     int
	quiet    bool
	noTrunc  bool
}

func (f *listFlags) add(cmd *cobra.Command, what string, states []string) {
	flags := cmd.Flags()
	flags.StringVar(&f.id, "id", "", "only the "+what+" whose ID begins so")
	flags.StringVar(&f.name, "name", "", "only "+what+"s whose name matches this regular expression")
	flags.StringArrayVar(&f.labels, "label", nil, "only "+what+"s with this label, KEY=VALUE; may be repeated")
	flags.StringVarP(&f.state, "state", "s", "", "only "+what+"s in this state: "+strings.Join(states, ", "))
	flags.BoolVarP(&f.latest, "latest", "l", false, "only the newest "+what+", whatever its state")
	flags.IntVarP(&f.last, "last", "n", 0, "only the `N` newest "+what+"s, whatever their state")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print only IDs")
	flags.BoolVar(&f.noTrunc, "no-trunc", false, "do not shorten IDs")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
}

// newest is how many of the newest were asked for, 0 for all.
func (f *listFlags) newest() (int, error) {
	if f.last < 0 {
		return 0, fmt.Errorf("--last %d is negative", f.last)
	}
	if f.latest {
		return 1, nil
	}
	return f.last, nil
}

// selector is what the labels ask for, in the form CRI filters take.
func (f *listFlags) selector() (map[string]string, error) { return parsePairs("label", f.labels) }

func parsePairs(what string, list []string) (map[string]string, error) {
	pairs := make(map[string]string, len(list))
	for _, l := range list {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%s %q is not KEY=VALUE", what, l)
		}
		pairs[key] = value
	}
	return pairs, nil
}

// matcher tells whether a name is meant by a regular expression; an empty one
// means every name.
func matcher(flag, expr string) (func(string) bool, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return re.MatchString, nil
}

// parseState finds value in states by its lower-case name.
func parseState[S ~int32](value string, states map[string]S) (S, error) {
	if s, ok := states[strings.ToLower(value)]; ok {
		return s, nil
	}
	return 0, fmt.Errorf("unknown state %q: use %s", value, strings.Join(stateNames(states), ", "))
}

func stateNames[S ~int32](states map[string]S) []string {
	names := make([]string, 0, len(states))
	for name := range states {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return int(states[a]) - int(states[b]) })
	return names
}

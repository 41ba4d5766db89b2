package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

const defaultAddress = "unix:///run/berth/berth.sock"

var errInterrupted = errors.New("interrupted")

// app is what all commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	address        string
	requestTimeout time.Duration
	now            func() time.Time

	client *client.Client
}

func newApp(in io.Reader, out, errOut io.Writer) *app {
	return &app{stdin: in, stdout: out, stderr: errOut, now: time.Now}
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "Look at and work with the pods, containers and images of a node",
		Long: `berth talks to berthd over its CRI socket.

Containers, pods and images may be named by ID, by an unambiguous beginning of
their ID, or by name; a container also as POD/NAME, a pod as NAMESPACE/NAME.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return client.WithHint(err, "`"+cmd.CommandPath()+" --help` lists the flags")
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.address, "address", addressFromEnv(), "`socket` of the runtime (environment: BERTH_ADDRESS, CONTAINER_RUNTIME_ENDPOINT)")
	durationVarP(flags, &a.requestTimeout, "request-timeout", "", 30*time.Second, "how long a question to the runtime may take; 0 is no limit")
	root.AddCommand(
		a.podsCommand(), a.psCommand(), a.imagesCommand(),
		a.loadCommand(), a.saveCommand(), a.pushCommand(), a.tagCommand(), a.untagCommand(),
		a.pullCommand(), a.runCommand(), a.execCommand(), a.attachCommand(), a.logsCommand(), a.portForwardCommand(),
		a.diffCommand(), a.commitCommand(), a.cpCommand(),
		a.checkpointCommand(), a.restoreCommand(), a.stopCommand(), a.rmCommand(), a.rmpCommand(), a.rmiCommand(),
		a.inspectCommand(), a.statsCommand(), a.metricsCommand(), a.eventsCommand(), a.opsCommand(), a.dfCommand(), a.fsckCommand(), a.infoCommand(), a.versionCommand(),
	)
	return root
}

func addressFromEnv() string {
	for _, name := range []string{"BERTH_ADDRESS", "CONTAINER_RUNTIME_ENDPOINT"} {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return defaultAddress
}

// connect returns the client of this invocation, connecting at the first call.
func (a *app) connect() (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	c, err := client.Dial(a.address, a.requestTimeout)
	if err != nil {
		return nil, err
	}
	a.client = c
	return c, nil
}

func (a *app) close() {
	if a.client != nil {
		a.client.Close()
	}
}

// action is the work of a command: its context ends with SIGINT or SIGTERM.
type action func(ctx context.Context, c *client.Client, args []string) error

// connected makes an action into what cobra runs.
func (a *app) connected(do action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err = do(ctx, c, args)
		if err != nil && ctx.Err() != nil && cmd.Context().Err() == nil {
			return errInterrupted
		}
		return err
	}
}

// outputFlag adds -o to a command.
func outputFlag(cmd *cobra.Command, format *output.Format, byDefault output.Format) {
	*format = byDefault
	cmd.Flags().VarP((*formatValue)(format), "output", "o", "table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(output.Formats(), cobra.ShellCompDirectiveNoFileComp))
}

type formatValue output.Format

func (f *formatValue) String() string { return string(*f) }
func (f *formatValue) Type() string   { return "format" }
func (f *formatValue) Set(s string) error {
	parsed, err := output.ParseFormat(s)
	if err == nil {
		*f = formatValue(parsed)
	}
	return err
}

package integration

import (
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-cri/berth/cri/berthapi"
)

// files is a client of the daemon's berth.v1.Containers.
func (d *daemon) files(t testing.TB) *berthapi.ContainersClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return berthapi.NewContainersClient(conn)
}

func (c *ctr) diff() []string {
	c.t.Helper()
	var got []string
	err := c.pod.d.files(c.t).Diff(c.t.Context(), berthapi.DiffRequest{ContainerID: c.id}, func(change berthapi.Change) error {
		got = append(got, change.Kind+" "+change.Path)
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

// The runtime's own mounts do not show; what the container did does, also in a user namespace
// and when it has ended.
func TestDiff(t *testing.T) {
	for name, options := range map[string][]podOption{"plain": nil, "user namespace": {userNamespace}} {
		t.Run(name, func(t *testing.T) {
			c := runPod(t, options...).run(shell("sleep 1000"))
			if got := c.diff(); len(got) != 0 {
				t.Errorf("nothing was done: %q", got)
			}
			c.sh("mkdir /new && echo x > /new/file && rm /bin/ls && echo x > /dev/shm/x")
			want := []string{"changed /bin", "deleted /bin/ls", "added /new", "added /new/file"}
			if got := c.diff(); !slices.Equal(got, want) {
				t.Errorf("changes %q, want %q", got, want)
			}
			c.stop(0)
			if got := c.diff(); !slices.Equal(got, want) {
				t.Errorf("changes when it has ended %q, want %q", got, want)
			}
		})
	}
	err := shared.files(t).Diff(t.Context(), berthapi.DiffRequest{ContainerID: "nobody"}, nil)
	wantCode(t, "a container that is not there", err, notFound)
}

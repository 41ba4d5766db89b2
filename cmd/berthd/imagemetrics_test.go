package main

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/berth-cri/berth/imageservice"
)

type fakePulls struct{}

func (fakePulls) Counters() imageservice.Counters {
	return imageservice.Counters{
		Pulls: 10, PullErrors: 2, Blobs: 30, BlobBytes: 4000, Layers: 25, ResumedBytes: 500, Unchanged: 3, Split: 6,
	}
}

func (fakePulls) Pulls() []imageservice.Pull {
	layers := []imageservice.LayerProgress{
		{Size: 100, Fetched: 40}, {Size: 1000, Fetched: 1001, Done: true}, {Size: 7, Done: true, Shared: true},
	}
	return []imageservice.Pull{{Ref: "r.example/a:1", Layers: layers}, {Ref: "r.example/a:1", Layers: layers[:1]}, {Ref: "r.example/b:1"}}
}

func (fakePulls) Imports() []imageservice.Import {
	return []imageservice.Import{{State: imageservice.ImportImported}, {State: imageservice.ImportFailed}, {State: imageservice.ImportImported}}
}

func TestImageMetrics(t *testing.T) {
	m := newImageMetrics(nil)
	m.images = fakePulls{}
	want := `
# HELP berth_image_import_files Files in the folders that are watched for images, by state: waiting, imported, failed.
# TYPE berth_image_import_files gauge
berth_image_import_files{state="failed"} 1
berth_image_import_files{state="imported"} 2
berth_image_import_files{state="waiting"} 0
# HELP berth_image_pull_bytes_total Bytes of layers as they are compressed, by where they came from: network, or resumed (an earlier transfer).
# TYPE berth_image_pull_bytes_total counter
berth_image_pull_bytes_total{source="network"} 4000
berth_image_pull_bytes_total{source="resumed"} 500
# HELP berth_image_blobs_split_total Blobs of layers that were fetched over several connections.
# TYPE berth_image_blobs_split_total counter
berth_image_blobs_split_total 6
# HELP berth_image_pull_running_fetched_bytes Bytes of layers that a running pull has, by image.
# TYPE berth_image_pull_running_fetched_bytes gauge
berth_image_pull_running_fetched_bytes{image="r.example/a:1"} 1080
berth_image_pull_running_fetched_bytes{image="r.example/b:1"} 0
# HELP berth_image_pull_running_size_bytes Bytes of layers that a running pull needs, without those that were here, by image.
# TYPE berth_image_pull_running_size_bytes gauge
berth_image_pull_running_size_bytes{image="r.example/a:1"} 1200
berth_image_pull_running_size_bytes{image="r.example/b:1"} 0
# HELP berth_image_pulls_total Pulls that have ended, by result: pulled, unchanged (the registry has what is here), failed.
# TYPE berth_image_pulls_total counter
berth_image_pulls_total{result="failed"} 2
berth_image_pulls_total{result="pulled"} 5
berth_image_pulls_total{result="unchanged"} 3
`
	if err := testutil.CollectAndCompare(m, strings.NewReader(want), "berth_image_pulls_total", "berth_image_pull_bytes_total",
		"berth_image_blobs_split_total", "berth_image_pull_running_fetched_bytes", "berth_image_pull_running_size_bytes"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(m); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

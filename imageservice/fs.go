package imageservice

import (
	"context"
	"time"

	"github.com/berth-cri/berth/imageservice/tree"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageFsInfo implements ImageService.ImageFsInfo. Usage comes from counters that
// unpacking and the background measurements keep: no directory is read. Images
// and containers are on the same file system, which is how the kubelet takes two
// equal mountpoints.
func (s *Service) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	now := time.Now().UnixNano()
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{s.fsUsage(now, s.imageUsage())},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{s.fsUsage(now, s.store.TotalRootfsUsage())},
	}, nil
}

// imageUsage is what images take: their layers, and the blobs that these came from.
func (s *Service) imageUsage() tree.Usage {
	u := s.store.LayerUsage()
	bytes, blobs := s.store.Content().Usage()
	u.Bytes += bytes
	u.Inodes += blobs
	return u
}

func (s *Service) fsUsage(now int64, u tree.Usage) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp:  now,
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: s.store.Root()},
		UsedBytes:  &runtimeapi.UInt64Value{Value: u.Bytes},
		InodesUsed: &runtimeapi.UInt64Value{Value: u.Inodes},
	}
}

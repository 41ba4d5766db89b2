package imageservice

import (
	"context"
	"time"

	"github.com/berth-cri/berth/imageservice/tree"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageFsInfo implements ImageService.ImageFsInfo. Usage comes from counters that
// unpacking and the background measurements keep: no directory is read. Two equal
// mountpoints tell the kubelet that images and containers share a file system.
func (s *Service) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	now := time.Now().UnixNano()
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{fsUsage(now, s.store.Root(), s.imageUsage())},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{fsUsage(now, s.store.WritableRoot(), s.store.TotalRootfsUsage())},
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

func fsUsage(now int64, dir string, u tree.Usage) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp:  now,
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: dir},
		UsedBytes:  &runtimeapi.UInt64Value{Value: u.Bytes},
		InodesUsed: &runtimeapi.UInt64Value{Value: u.Inodes},
	}
}

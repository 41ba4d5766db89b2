package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// treeLayers is the number of layers that a directory is served as.
const treeLayers = 3

// imageRegistry serves images on loopback, without TLS.
type imageRegistry struct {
	dir    string
	server *http.Server
	addr   string
}

func startRegistry(addr string) (*imageRegistry, error) {
	dir, err := os.MkdirTemp("", "bench-registry-")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	handler := registry.New(
		registry.WithBlobHandler(blobDir(dir)),
		registry.Logger(log.New(io.Discard, "", 0)))
	r := &imageRegistry{dir: dir, server: &http.Server{Handler: handler}, addr: listener.Addr().String()}
	go r.server.Serve(listener)
	return r, nil
}

// Close ends the server and removes what it served.
func (r *imageRegistry) Close() {
	r.server.Close()
	os.RemoveAll(r.dir)
}

// addProgram serves an image that holds one static program as /bin/NAME, and links to it.
func (r *imageRegistry) addProgram(repository, path string, links []string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the program of %s: %w", repository, err)
	}
	program := filepath.Base(path)
	archive, err := r.pack(func(w *tar.Writer) error {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + program, Mode: 0o755, Size: int64(len(data))}); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		for _, link := range links {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + link, Linkname: program}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromFile(archive, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return "", err
	}
	return r.push(repository+":latest", []string{"/bin/" + program}, layer)
}

// addMarked serves images of these compressed archives, a layer each. The images differ in
// a first file of each layer, so that each is cold where another was pulled.
func (r *imageRegistry) addMarked(repository string, parts []string, images int) ([]string, error) {
	var refs []string
	for i := range images {
		var layers []v1.Layer
		for n, part := range parts {
			layer, err := r.marked(part, fmt.Sprintf("image-%d-%d", i, n))
			if err != nil {
				return nil, err
			}
			layers = append(layers, layer)
		}
		ref, err := r.push(fmt.Sprintf("%s:%d", repository, i), nil, layers...)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// packTree packs a directory into compressed archives of about the same size.
func (r *imageRegistry) packTree(dir string) ([]string, error) {
	paths, total, err := walkTree(dir)
	if err != nil {
		return nil, err
	}
	var parts []string
	for i := range treeLayers {
		part, err := r.pack(func(w *tar.Writer) error {
			rest, err := writeTree(w, dir, paths, total/treeLayers, i == treeLayers-1)
			paths = rest
			return err
		})
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// walkTree lists what is in a directory, and the size of all of it.
func walkTree(dir string) (paths []string, total int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if path != dir && info.Mode()&fs.ModeSocket == 0 {
			paths = append(paths, path)
			total += info.Size()
		}
		return nil
	})
	return paths, total, err
}

// marked is the layer of a compressed archive with one file more. That is a gzip member
// and a piece of an archive of its own, put before the other, which is not packed again.
func (r *imageRegistry) marked(archive, mark string) (v1.Layer, error) {
	file, err := os.CreateTemp(r.dir, "marked-*.tar.gz")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	compressed := gzip.NewWriter(file)
	w := tar.NewWriter(compressed)
	if err := w.WriteHeader(&tar.Header{Name: mark, Mode: 0o644}); err != nil {
		return nil, err
	}
	// Flushed, not closed: the end of this archive is that of the other.
	if err := errors.Join(w.Flush(), compressed.Close()); err != nil {
		return nil, err
	}
	rest, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer rest.Close()
	if _, err := io.Copy(file, rest); err != nil {
		return nil, err
	}
	return tarball.LayerFromFile(file.Name(), tarball.WithMediaType(types.OCILayer))
}

// writeTree writes paths until size bytes are in, or all of them, and returns the rest.
func writeTree(w *tar.Writer, dir string, paths []string, size int64, all bool) ([]string, error) {
	var written int64
	for i, path := range paths {
		if written >= size && !all {
			return paths[i:], nil
		}
		n, err := writeFile(w, dir, path)
		if err != nil {
			return nil, err
		}
		written += n
	}
	return nil, nil
}

func writeFile(w *tar.Writer, dir, path string) (int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	var target string
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return 0, err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return 0, err
	}
	header.Name, _ = filepath.Rel(dir, path)
	header.Uname, header.Gname = "", ""
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		header.Uid, header.Gid = int(stat.Uid), int(stat.Gid)
	}
	if err := w.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return 0, err
	}
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return io.Copy(w, file)
}

// pack writes a compressed archive and returns its path.
func (r *imageRegistry) pack(fill func(*tar.Writer) error) (string, error) {
	file, err := os.CreateTemp(r.dir, "layer-*.tar.gz")
	if err != nil {
		return "", err
	}
	defer file.Close()
	compressed := gzip.NewWriter(file)
	archive := tar.NewWriter(compressed)
	if err := fill(archive); err != nil {
		return "", err
	}
	return file.Name(), errors.Join(archive.Close(), compressed.Close())
}

func (r *imageRegistry) push(repository string, entrypoint []string, layers ...v1.Layer) (string, error) {
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		return "", err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return "", err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = entrypoint
	config.Config.Env = []string{"PATH=/bin:/usr/bin"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return "", err
	}
	ref, err := name.ParseReference(r.addr+"/"+repository, name.Insecure)
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, image); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return ref.String(), nil
}

package imagetest

import (
	"archive/tar"
	"strings"
)

// Hostile is a layer that tries to reach what is not its own.
type Hostile struct {
	Name    string
	Archive []byte
	// Refused layers must not unpack. The others are odd and legal: they must
	// unpack, and stay inside their root.
	Refused bool
}

// HostileLayers is the corpus that every way of unpacking must withstand. canary
// is the absolute path of a directory outside, with a file "file" in it, which
// must not change; the layers try to reach it.
func HostileLayers(canary string) []Hostile {
	up := strings.Repeat("../", 40) + strings.TrimPrefix(canary, "/")
	rel := strings.TrimPrefix(canary, "/")
	return append(refusedLayers(canary, up), containedLayers(canary, up, rel)...)
}

func refusedLayers(canary, up string) []Hostile {
	long := strings.Repeat("a/", 2500)
	deep := strings.Repeat("d/", 1800)
	list := []struct {
		name    string
		entries []Entry
	}{
		{"file above the root", []Entry{File("../evil", "x", 0o644)}},
		{"file through dots", []Entry{File("a/../../evil", "x", 0o644)}},
		{"file far above", []Entry{File(up+"/evil", "x", 0o644)}},
		{"directory above", []Entry{Dir(up, 0o777)}},
		{"symlink above", []Entry{Symlink("../evil", "/etc")}},
		{"whiteout above", []Entry{File(up+"/.wh.file", "", 0o644)}},
		{"opaque above", []Entry{File(up+"/.wh..wh..opq", "", 0o644)}},
		{"whiteout of the parent", []Entry{Dir("a", 0o755), File("a/.wh...", "", 0o644)}},
		{"whiteout of nothing", []Entry{File(".wh.", "", 0o644)}},
		{"hard link above", []Entry{Hardlink("stolen", up+"/file")}},
		{"hard link to an absolute path", []Entry{Hardlink("stolen", canary+"/file")}},
		{"hard link through a link", []Entry{Symlink("esc", canary), Hardlink("stolen", "esc/file")}},
		{"hard link through a relative link", []Entry{Symlink("esc", up), Hardlink("stolen", "esc/file")}},
		{"hard link to a directory", []Entry{Dir("d", 0o755), Hardlink("l", "d")}},
		{"hard link to a whiteout mark", []Entry{File("f", "x", 0o644), Hardlink("l", ".wh.f")}},
		{"hard link to nothing", []Entry{Hardlink("l", "absent")}},
		{"root is a link", []Entry{Symlink(".", canary)}},
		{"root is a file", []Entry{File(".", "x", 0o644), {Header: tar.Header{Typeflag: tar.TypeFifo, Name: "."}}}},
		{"file below a file", []Entry{File("f", "x", 0o644), File("f/g", "x", 0o644)}},
		{"below a device", []Entry{Device("n", tar.TypeChar, 1, 3), File("n/g", "x", 0o644)}},
		{"loop of links", []Entry{Symlink("a", "b"), Symlink("b", "a"), File("a/f", "x", 0o644)}},
		{"link to itself", []Entry{Symlink("a", "a"), File("a/f", "x", 0o644)}},
		{"name too long", []Entry{File(long+"f", "x", 0o644)}},
		{"component too long", []Entry{File(strings.Repeat("n", 300)+"/f", "x", 0o644)}},
		{"link target too long", []Entry{Symlink("l", long)}},
		{"path beyond the kernel's limit", []Entry{Dir(deep, 0o755), Symlink("s", deep), Dir("s/"+deep+deep, 0o755)}},
		{"owner that wraps to root", []Entry{File("f", "x", 0o4755).Owned(1<<32, 0)}},
		{"owner that means unchanged", []Entry{File("f", "x", 0o4755).Owned(1<<32-1, 0)}},
		{"group that wraps", []Entry{File("f", "x", 0o4755).Owned(0, 1<<33)}},
		{"device out of range", []Entry{Device("n", tar.TypeBlock, 1<<20, 0)}},
		{"huge attributes", []Entry{File("f", "x", 0o644).Xattr("user.a", strings.Repeat("v", 200<<10))}},
	}
	var out []Hostile
	for _, l := range list {
		out = append(out, Hostile{Name: l.name, Archive: Tar(l.entries...), Refused: true})
	}
	whole := Tar(File("f", strings.Repeat("x", 5000), 0o644))
	return append(out,
		Hostile{Name: "cut in a file", Archive: whole[:2048], Refused: true},
		Hostile{Name: "cut in a header", Archive: whole[:100], Refused: true},
		Hostile{Name: "not an archive", Archive: []byte(strings.Repeat("this is no archive\n", 100)), Refused: true},
		Hostile{Name: "broken header checksum", Archive: append([]byte("X"), whole[1:]...), Refused: true},
	)
}

func containedLayers(canary, up, rel string) []Hostile {
	list := []struct {
		name    string
		entries []Entry
	}{
		{"absolute names", []Entry{File(canary+"/file", "evil", 0o644), Dir(canary, 0o777)}},
		{"write through an absolute link", []Entry{Symlink("esc", canary), File("esc/file", "evil", 0o666)}},
		{"write through a relative link", []Entry{Symlink("esc", up), File("esc/file", "evil", 0o666)}},
		{"write through a link to the root", []Entry{Symlink("esc", "/"), File("esc/"+rel+"/file", "evil", 0o666)}},
		{"write through links in turn", []Entry{Symlink("a", "/b"), Symlink("b", up), File("a/file", "evil", 0o666)}},
		{"write to a link's target", []Entry{Symlink("f", canary+"/file"), File("f", "evil", 0o666)}},
		{"describe a link's target", []Entry{Symlink("d", canary), Dir("d", 0o777).Owned(1, 1).Xattr("user.evil", "1")}},
		{"remove through a link", []Entry{Symlink("d", canary), File("d/.wh.file", "", 0o644)}},
		{"opaque through a link", []Entry{Symlink("d", canary), File("d/.wh..wh..opq", "", 0o644)}},
		{"directory becomes a link becomes a file", []Entry{
			Dir("d", 0o755), File("d/file", "1", 0o644), Symlink("d", canary), File("d/file", "evil", 0o666),
			File("d", "now a file", 0o644), Dir("d", 0o755), File("d/file", "2", 0o644),
		}},
		{"link becomes a directory", []Entry{Symlink("d", canary), Dir("d", 0o755), File("d/file", "in", 0o644)}},
		{"hard link to a link, then written", []Entry{Symlink("s", canary+"/file"), Hardlink("h", "s"), File("h", "evil", 0o666)}},
		{"hard link to itself", []Entry{File("f", "x", 0o644), Hardlink("f", "f")}},
		{"same name many times", []Entry{File("f", "1", 0o644), Dir("f", 0o755), File("f/g", "2", 0o644), Symlink("f", "g"), File("f", "3", 0o644)}},
		{"device nodes", []Entry{Device("null", tar.TypeChar, 1, 3), Device("disk", tar.TypeBlock, 8, 0), {Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}}}},
		{"write to a device", []Entry{Device("disk", tar.TypeBlock, 8, 0), File("disk", "evil", 0o644)}},
		{"overlay's own attributes", []Entry{
			Dir("d", 0o755).Xattr("trusted.overlay.opaque", "y"), File("f", "x", 0o644).Xattr("trusted.overlay.redirect", canary),
			File("m", "x", 0o644).Xattr("trusted.overlay.metacopy", ""), File("u", "x", 0o644).Xattr("user.overlay.redirect", canary),
			File("l", "x", 0o644).Xattr("security.selinux", "evil_t"),
		}},
		{"whiteout as a device", []Entry{Device("gone", tar.TypeChar, 0, 0), Hardlink("gone2", "gone")}},
	}
	var out []Hostile
	for _, l := range list {
		out = append(out, Hostile{Name: l.name, Archive: Tar(l.entries...)})
	}
	return out
}

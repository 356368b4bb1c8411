//go:build linux

package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Image is a container image of one layer, made here. Pods name it with
// imagePullPolicy Never.
type Image struct {
	Name       string            // with a registry and a tag, as tulle.test/app:1
	Files      map[string]string // place in the image to file here; all executable
	Links      map[string]string // place in the image to where a symbolic link there leads
	Entrypoint []string
	User       string // as in a Dockerfile; empty: root
}

const pauseImage = "tulle.test/pause:1"

// baseImages writes the archives of the images that every node has.
func (c *Cluster) baseImages(ctx context.Context) error {
	pause := filepath.Join(c.Dir, "images", "pause")
	if err := Program(ctx, "./test/cluster/pause", pause); err != nil {
		return err
	}
	all := append([]Image{
		{Name: pauseImage, Files: map[string]string{"/pause": pause}, Entrypoint: []string{"/pause"}},
		{Name: "tulle.test/coredns:1", Files: map[string]string{"/coredns": filepath.Join(c.bin, "coredns")}, Entrypoint: []string{"/coredns"}},
	}, c.options.Images...)
	for i, im := range all {
		archive := filepath.Join(c.Dir, "images", fmt.Sprintf("%d.tar", i))
		if err := im.write(archive); err != nil {
			return err
		}
		c.mu.Lock()
		c.images = append(c.images, archive)
		c.mu.Unlock()
	}
	return nil
}

// Load gives an image to every node; one with the same name is replaced, for
// containers that start from now on.
func (c *Cluster) Load(ctx context.Context, im Image) error {
	c.mu.Lock()
	archive := filepath.Join(c.Dir, "images", fmt.Sprintf("%d.tar", len(c.images)))
	c.images = append(c.images, archive)
	c.mu.Unlock()
	if err := im.write(archive); err != nil {
		return err
	}
	for i := 1; i <= c.options.Nodes; i++ {
		if err := c.load(ctx, nodeName(i), archive); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) load(ctx context.Context, node, archive string) error {
	_, err := c.places.run(ctx, node, false, "ctr", "-n", "k8s.io", "images", "import", archive)
	return err
}

// accounts of every image: the names that runtimes look up for a number.
const (
	passwd = "root:x:0:0:root:/:/none\ntulle:x:1337:1337::/:/none\nnobody:x:65534:65534::/:/none\n"
	groups = "root:x:0:\ntulle:x:1337:\nnobody:x:65534:\n"
)

// write makes an archive as "ctr images import" reads it: an OCI image layout
// with one manifest, which carries the name.
func (im Image) write(archive string) error {
	if !strings.Contains(im.Name, "/") || !strings.Contains(path.Base(im.Name), ":") {
		return fmt.Errorf("image %q: the name needs a registry and a tag", im.Name)
	}
	layer, err := im.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", im.Name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": map[string]any{"Entrypoint": im.Entrypoint, "User": im.User, "Env": []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": describe("application/vnd.oci.image.config.v1+json", config),
		"layers": []any{describe("application/vnd.oci.image.layer.v1.tar", layer)},
	})
	if err != nil {
		return err
	}
	top := describe("application/vnd.oci.image.manifest.v1+json", manifest)
	top["annotations"] = map[string]string{"io.containerd.image.name": im.Name}
	top["platform"] = map[string]string{"architecture": runtime.GOARCH, "os": "linux"}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{top}})
	if err != nil {
		return err
	}
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	put(w, "oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	put(w, "index.json", 0o644, index)
	for _, blob := range [][]byte{config, manifest, layer} {
		put(w, "blobs/"+strings.Replace(digest(blob), ":", "/", 1), 0o644, blob)
	}
	return errors.Join(w.Close(), f.Close())
}

// layer is the image's file system.
func (im Image) layer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	dirs := map[string]bool{".": true}
	var dir func(name string, mode int64)
	dir = func(name string, mode int64) {
		if dirs[name] {
			return
		}
		dirs[name] = true
		dir(path.Dir(name), 0o755)
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: time.Unix(0, 0)}) // seen at Close
	}
	dir("tmp", 0o1777)
	dir("etc", 0o755)
	put(w, "etc/passwd", 0o644, []byte(passwd))
	put(w, "etc/group", 0o644, []byte(groups))
	names := make([]string, 0, len(im.Files))
	for name := range im.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b, err := os.ReadFile(im.Files[name])
		if err != nil {
			return nil, err
		}
		in := strings.TrimPrefix(path.Clean(name), "/")
		dir(path.Dir(in), 0o755)
		put(w, in, 0o755, b)
	}
	for _, name := range slices.Sorted(maps.Keys(im.Links)) {
		in := strings.TrimPrefix(path.Clean(name), "/")
		dir(path.Dir(in), 0o755)
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: in, Linkname: im.Links[name], Mode: 0o777, ModTime: time.Unix(0, 0)}) // seen at Close
	}
	return buf.Bytes(), w.Close()
}

// put adds a file; an error is seen at Close.
func put(w *tar.Writer, name string, mode int64, b []byte) {
	if w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(b)), ModTime: time.Unix(0, 0)}) == nil {
		_, _ = io.Copy(w, bytes.NewReader(b))
	}
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

func describe(mediaType string, b []byte) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": digest(b), "size": len(b)}
}

// Command pgo takes the paths of the machine that it was taken on out of a CPU
// profile, so that it can be kept in the repository.
//
// In: a profile in pprof's format, by its name. Out: the same with the last
// elements of absolute paths only, in the file that is named second; what a
// compiler reads of it (functions, lines, weights) stays.
//
// What does not belong here: merging and choosing of samples, which is `go tool
// pprof`'s.
package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path"

	"google.golang.org/protobuf/encoding/protowire"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pgo:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want two files, in and out, not %q", args)
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	in, err := io.ReadAll(z)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	profile, err := strip(in)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(profile); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(args[1], out.Bytes(), 0o644)
}

// stringTable is its field in perftools.profiles.Profile.
const stringTable = 6

// strip rewrites the strings of a profile that are absolute paths. Others
// refer to them by their places, which stay.
func strip(in []byte) (out []byte, err error) {
	for len(in) > 0 {
		num, kind, n := protowire.ConsumeField(in)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		field := in[:n]
		in = in[n:]
		if num == stringTable && kind == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(field)
			if s, _ := protowire.ConsumeBytes(field[tag:]); path.IsAbs(string(s)) {
				field = protowire.AppendString(protowire.AppendTag(nil, num, kind), path.Base(string(s)))
			}
		}
		out = append(out, field...)
	}
	return out, nil
}

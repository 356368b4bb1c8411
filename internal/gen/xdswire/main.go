// Program xdswire writes the proxy's xDS decoders.
//
// In: the descriptors of the Envoy v3 API as go-control-plane publishes them,
// and a table that says of every field of every message within reach whether
// the proxy acts on it, may ignore it (and why), or must refuse it. Out: plain
// Go structs with the fields acted on, and decoders over protowire that accept
// nothing which the table does not name.
//
// What does not belong here: what the fields mean (see proxy/conf).
//
// Use: go run ./internal/gen/xdswire [-fill] [-table FILE] [-out FILE].
// With -fill, fields that the table does not mention are appended to it as
// refused, and messages newly within reach are added with all fields refused.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
)

func main() {
	table := flag.String("table", "internal/proxy/conf/wire/fields.txt", "field table")
	out := flag.String("out", "internal/proxy/conf/wire/wire_gen.go", "Go file to write")
	fill := flag.Bool("fill", false, "append unmentioned fields to the table as refused, then stop")
	flag.Parse()
	if err := run(*table, *out, *fill); err != nil {
		fmt.Fprintf(os.Stderr, "xdswire: %v\n", err)
		os.Exit(1)
	}
}

func run(tablePath, out string, fill bool) error {
	text, err := os.ReadFile(tablePath)
	if err != nil {
		return err
	}
	t, err := parseTable(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", tablePath, err)
	}
	if fill {
		filled, err := t.fill(string(text))
		if err != nil || filled == string(text) {
			return err
		}
		return os.WriteFile(tablePath, []byte(filled), 0o644)
	}
	code, err := generate(t)
	if err != nil {
		return fmt.Errorf("%s: %w", tablePath, err)
	}
	if old, err := os.ReadFile(out); err == nil && bytes.Equal(old, code) {
		return nil
	}
	return os.WriteFile(out, code, 0o644)
}

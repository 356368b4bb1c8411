// Package file reads user objects from YAML and JSON files and watches them
// for changes.
//
// In: paths of files and directories (one level: the .yaml, .yml and .json
// files of a directory, hidden ones left out), several documents per file,
// kind List expanded.
// Out: source.Snapshot. Each object keeps its file and line, and finds the
// line of each of its fields. Text that was pasted from a web page and lost
// its form is refused with a notice that says how it is broken.
//
// Owned goroutines: Watcher.Watch starts one which reads inotify and ends it
// before it returns.
//
// What does not belong here: what an object means, schemas, defaults of kinds.
package file

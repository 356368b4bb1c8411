// Package dialect says what a reader is: a pure function from the user's
// objects of one API family to model fragments and notices.
//
// In: a source.Snapshot. Out: one model.Fragment of everything that was
// understood, and a notice for everything that was not. Sub-rooms are the
// readers; none knows another, and the list of them lives in control.
//
// What does not belong here: references between objects, merging, defaults
// (link), and the list of readers.
package dialect

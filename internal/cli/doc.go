// Package cli is the command line of tulle: one file per subcommand, each of
// which parses its arguments, calls a room and prints.
//
// In: arguments. Out: answers on stdout, messages on stderr as "tulle: ...",
// and an exit status: 0 good, 1 the answer is no, 2 wrong use or failure.
//
// What does not belong here: anything that another program could want.
package cli

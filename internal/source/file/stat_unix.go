//go:build unix

package file

import (
	"fmt"
	"os"
	"syscall"
)

// identity of the file behind a name, so that a replaced file is seen even
// when size and time are the same.
func fileID(st os.FileInfo) string {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}

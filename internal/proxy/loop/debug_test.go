//go:build linux && tulle_debug

package loop

func init() { debugBuild = true }

package tulle

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/dialect/dialecttest"
)

func TestCases(t *testing.T) { dialecttest.Run(t, "testdata", Reader{}) }

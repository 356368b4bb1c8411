package install

import (
	"encoding/json"
	"fmt"
)

// text of a scalar; users write numbers for tags.
func text(v any) string {
	switch x := v.(type) {
	case nil:
		return ""
	case string:
		return x
	}
	return fmt.Sprint(v)
}

// enabled unless it says no.
func enabled(v any) bool {
	on, ok := v.(bool)
	return on || !ok
}

func decode(v any, into any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

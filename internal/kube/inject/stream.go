package inject

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// maxDocument bounds one YAML document, as an API server does.
const maxDocument = 3 << 20

// Stream copies YAML documents and gives those with pods their sidecar, as the
// webhook would in a namespace that asks for sidecars. tell hears of every
// object with pods that stays as it is.
func (c *Config) Stream(in io.Reader, out io.Writer, namespace string, tell func(object, why string)) error {
	docs := kyaml.NewYAMLReader(bufio.NewReader(in))
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
		if len(doc) > maxDocument {
			return fmt.Errorf("document %d: %d bytes are more than %d", n, len(doc), maxDocument)
		}
		text, err := c.document(doc, namespace, tell)
		if err != nil {
			return fmt.Errorf("document %d: %w", n, err)
		}
		if _, err := fmt.Fprintf(out, "---\n%s", text); err != nil {
			return err
		}
	}
}

func (c *Config) document(doc []byte, namespace string, tell func(object, why string)) ([]byte, error) {
	raw, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return nil, err
	}
	if string(raw) == "null" {
		return nil, nil
	}
	var head struct {
		Kind     string            `json:"kind"`
		Metadata metav1.ObjectMeta `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	if head.Kind == "List" {
		return nil, errors.New("a List: write its items as documents of their own")
	}
	if head.Metadata.Namespace != "" {
		namespace = head.Metadata.Namespace
	}
	patch, d, err := c.Object(head.Kind, raw, namespace, map[string]string{"istio-injection": "enabled"})
	switch {
	case errors.Is(err, ErrNoPods):
		return doc, nil
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
	case !d.Inject:
		tell(head.Kind+" "+namespace+"/"+head.Metadata.Name, d.Why)
		return doc, nil
	}
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, err
	}
	done, err := p.Apply(raw)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(done)
}

// check-monitors reads YAML documents and decodes each object of the Prometheus operator
// with the operator's own types: a field that they do not have is an error.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

func main() {
	if err := check(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "check-monitors:", err)
		os.Exit(1)
	}
}

func check(input io.Reader) error {
	documents := yaml.NewYAMLReader(bufio.NewReader(input))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := strict.Unmarshal(document, &head); err != nil {
			return err
		}
		if head.APIVersion != "monitoring.coreos.com/v1" {
			continue
		}
		var object any
		switch head.Kind {
		case "PodMonitor":
			object = &monitoring.PodMonitor{}
		case "ServiceMonitor":
			object = &monitoring.ServiceMonitor{}
		case "PrometheusRule":
			object = &monitoring.PrometheusRule{}
		default:
			return fmt.Errorf("kind %q is not one of those that are checked", head.Kind)
		}
		if err := strict.UnmarshalStrict(document, object); err != nil {
			return fmt.Errorf("%s: %w", head.Kind, err)
		}
		fmt.Println(head.Kind)
	}
}

// Loads a compose file as `docker compose config` does, and prints what it means as JSON.
package main

import (
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/cli"
)

func load(path string) ([]byte, error) {
	options, err := cli.NewProjectOptions([]string{path})
	if err != nil {
		return nil, err
	}
	project, err := cli.ProjectFromOptions(options)
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}

func main() {
	text, err := load(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(text))
}

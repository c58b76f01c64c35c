//go:build tools

// Package tools pins kubeconform, which holds rendered objects against the API server's schemas. bed/gobuild.py builds it.
package tools

import _ "github.com/yannh/kubeconform/cmd/kubeconform"

//go:build tools

// Package tools pins Helm, which the tests of the chart run. bed/gobuild.py builds it.
package tools

import _ "helm.sh/helm/v4/cmd/helm"

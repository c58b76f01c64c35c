//go:build tools

// Package tools pins kube-score, which judges rendered objects by common advice. bed/gobuild.py builds it.
package tools

import _ "github.com/zegl/kube-score/cmd/kube-score"

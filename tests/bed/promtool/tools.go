//go:build tools

// Package tools pins promtool, which checks the chart's alerts. bed/gobuild.py builds it.
package tools

import _ "github.com/prometheus/prometheus/cmd/promtool"

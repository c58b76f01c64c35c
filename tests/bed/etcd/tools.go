//go:build tools

// Package tools pins the etcd that the tests run. bed/gobuild.py builds it.
package tools

import _ "go.etcd.io/etcd/server/v3"

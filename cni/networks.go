// Package cni attaches pods to the node's network through CNI plugins.
package cni

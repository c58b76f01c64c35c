"""The operator half of Kubooth: the API, its resolution, and (on a cluster) the reconciler."""

__version__ = "0.1.0"

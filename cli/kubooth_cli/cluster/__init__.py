"""What the commands for the cluster share: the connection, jobs and their pods, buckets, forms of output."""

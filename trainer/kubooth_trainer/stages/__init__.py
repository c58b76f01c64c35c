"""The stages of a job, one file each; `job.run_job` calls them in order."""

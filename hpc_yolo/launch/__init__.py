"""From a checked spec to a job: `plan`, `preflight` checks, `prepare` the run directory, `submit`."""

"""From a checked spec to a job: deciding (`plan`), the run directory (`prepare`), handing over (`job`)."""

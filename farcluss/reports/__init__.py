"""Reports: charts by matplotlib and pages of HTML that need nothing else."""

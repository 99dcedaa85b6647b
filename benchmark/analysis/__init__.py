"""From records to findings: statistics, ranks, verdicts, advice. Imports results, planning and below."""

"""One task across sites: many cases at source sites, few at target sites, in folds (Heras Rivera et al.)."""

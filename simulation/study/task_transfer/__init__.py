"""One task's model as the start of another task's: hippocampus to gross tumour volume (Tian et al., 2022)."""

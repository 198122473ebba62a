"""What this project measures about itself, each run from the checkout."""

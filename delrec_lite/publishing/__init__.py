"""Publishing bundles on the Hugging Face Hub."""

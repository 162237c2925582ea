"""Files from the internet, Google Drive and the Hugging Face Hub: resumed, checked, and whole or not there."""

"""Files from elsewhere, judged as data before anything is built or loaded from them."""

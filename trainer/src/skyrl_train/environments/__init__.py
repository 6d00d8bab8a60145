"""Problems and their rewards."""

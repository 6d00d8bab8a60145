"""What a run is: schema, loading, errors."""

"""Files of stores that are reached by a URL (S3, GCS, the Hugging Face Hub, web servers), through fsspec, and a cache of them."""

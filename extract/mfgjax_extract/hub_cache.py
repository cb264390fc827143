"""Delete a downloaded revision from the local Hugging Face cache, to keep a sweep's disk flat."""

from pathlib import Path

from mfgjax_extract.revisions import Revision


def delete_download(revision: Revision, cache: Path | None = None) -> int:
    """Delete the cached files that only `revision` uses.

    Args:
        revision: a hub revision; a local folder is never touched.
        cache: cache folder, by default the one of `huggingface_hub`.

    Returns:
        Bytes freed.
    """
    if revision.hub_revision is None:
        return 0
    from huggingface_hub import scan_cache_dir

    info = scan_cache_dir(cache)
    commits = [
        cached.commit_hash
        for repo in info.repos
        if repo.repo_id == revision.source
        for cached in repo.revisions
        if revision.hub_revision in cached.refs or revision.hub_revision == cached.commit_hash
    ]
    if not commits:
        return 0
    strategy = info.delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size

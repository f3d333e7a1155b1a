"""Simon Willison's `llm`, with a server in its list of models. Argument: the server."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUESTION = "turn on the kitchen light"


def main(url: str) -> dict[str, Any]:
    """Ask on the command line and from Python."""
    with tempfile.TemporaryDirectory() as folder:
        model = {
            "model_id": "box",
            "model_name": "demo-cpu",
            "api_base": f"{url}/v1",
            "api_key_name": "box",
        }
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps([model]))  # JSON is YAML
        Path(folder, "keys.json").write_text(json.dumps({"box": "none"}))
        os.environ["LLM_USER_PATH"] = folder
        command = [sys.executable, "-m", "llm", "-m", "box"]
        plain = subprocess.run(
            [*command, "--no-stream", QUESTION], capture_output=True, text=True, check=True
        )
        stream = subprocess.run([*command, QUESTION], capture_output=True, text=True, check=True)
        import llm  # type: ignore[import-not-found]  # looks for its folder when it is imported

        return {
            "whole": plain.stdout.strip(),
            "streamed": stream.stdout.strip(),
            "text": llm.get_model("box").prompt(QUESTION, stream=False).text(),
        }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))

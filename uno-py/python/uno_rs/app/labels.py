"""Labels of the fields, in the official app's words."""

PROMPT = "Prompt"
REFERENCES = ("Ref Img1", "Ref Img2", "Ref Img3", "Ref Img4")
REF_SIZE = "Long side of Ref Images"
WIDTH = "Generation Width"
HEIGHT = "Generation Height"
STEPS = "Number of steps"
GUIDANCE = "Guidance"
SEED = "Seed (-1 for random)"
RESULT = "Generated Image"
DOWNLOAD = "Download full-resolution"

// The entry: starts what every page has.
import { startFrame } from "./frame.js";
import { keepTime } from "./times.js";

keepTime();
startFrame();

// One picture of a part to its verdict. No packages. .NET 10 and newer run this file as it is:
//   INSPECT_URL=http://localhost:8000 INSPECT_KEY=fls_... dotnet run examples/InspectPart.cs part.png SERIAL LOT STATION
// .NET 8, .NET Framework 4.7.2 and Mono 6 compile it as any other.
// Exit code: 0 ok, 10 not_ok, 11 a person must look (review, undecidable), any other: the part is not inspected.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Runtime.Serialization.Json;
using System.Security.Cryptography;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using System.Xml;
using System.Xml.Linq;

static class InspectPart
{
    static readonly TimeSpan Patience = TimeSpan.FromSeconds(30); // after that the line must go on without an answer
    static readonly TimeSpan LongestWait = TimeSpan.FromSeconds(8);
    // too busy, restarting, late: the same request may pass in a moment
    static readonly HashSet<int> Again = new HashSet<int> { 408, 429, 502, 503, 504 };

    static int Main(string[] args)
    {
        if (args.Length == 0)
        {
            Console.Error.WriteLine("which picture? part.png SERIAL LOT STATION");
            return 1;
        }
        try
        {
            var rest = args.Skip(1).Concat(new[] { "", "", "" }).ToArray();
            return Inspect(File.ReadAllBytes(args[0]), rest[0], rest[1], rest[2]).GetAwaiter().GetResult();
        }
        catch (Exception error) when (error is IOException || error is UnauthorizedAccessException)
        {
            Console.Error.WriteLine(error.Message);
            return 1;
        }
    }

    static async Task<int> Inspect(byte[] picture, string serial, string lot, string station)
    {
        var url = Environment.GetEnvironmentVariable("INSPECT_URL") ?? "http://localhost:8000";
        var key = Environment.GetEnvironmentVariable("INSPECT_KEY");
        var random = new Random();
        var giveUp = DateTime.UtcNow + Patience;
        var wait = TimeSpan.FromMilliseconds(500);
        // a program that goes on keeps one client for all its parts, and with it the connection
        using (var client = new HttpClient { Timeout = Timeout.InfiniteTimeSpan })
        {
            if (!string.IsNullOrEmpty(key))
                client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", key);
            // one shot of one part: however often this is sent, it is judged and recorded once
            client.DefaultRequestHeaders.Add("Idempotency-Key", Digest(serial, station, picture));
            for (var left = Patience; left > TimeSpan.Zero; left = giveUp - DateTime.UtcNow)
            {
                try
                {
                    using (var request = new HttpRequestMessage(HttpMethod.Post, url + "/detect"))
                    using (var late = new CancellationTokenSource(left + TimeSpan.FromSeconds(1)))
                    {
                        request.Headers.Add("X-Deadline-Ms", Math.Ceiling(left.TotalMilliseconds).ToString("0"));
                        request.Content = new MultipartFormDataContent
                        {
                            { new ByteArrayContent(picture), "image", "part" },
                            { new StringContent(serial), "serial" },
                            { new StringContent(lot), "lot" },
                            { new StringContent(station), "station" },
                        };
                        using (var answer = await client.SendAsync(request, late.Token))
                        {
                            var body = await answer.Content.ReadAsByteArrayAsync();
                            var status = (int)answer.StatusCode;
                            if (status == 200) return Told(serial, body);
                            if (!Again.Contains(status))
                            {
                                // wrong picture, key, parameter: the same request fails again
                                Console.Error.WriteLine($"{status}: {Encoding.UTF8.GetString(body)}");
                                return 1;
                            }
                            wait = answer.Headers.RetryAfter?.Delta ?? wait;
                        }
                    }
                }
                catch (Exception error) when (error is HttpRequestException || error is OperationCanceledException)
                {
                    Console.Error.WriteLine($"{error.Message}; trying again");
                }
                // a little at random, so that the stations of a line do not all come back at the same moment
                var pause = TimeSpan.FromTicks((long)(wait.Ticks * (1 + 0.3 * random.NextDouble())));
                var rest = giveUp - DateTime.UtcNow;
                if (rest > TimeSpan.Zero) await Task.Delay(pause < rest ? pause : rest);
                wait = wait + wait < LongestWait ? wait + wait : LongestWait;
            }
        }
        Console.Error.WriteLine($"no answer within {Patience.TotalSeconds} s");
        return 1;
    }

    // .NET's own JSON reader that needs no package on any of its runtimes; with System.Text.Json:
    // JsonDocument.Parse(body).RootElement.GetProperty("results")[0]
    static int Told(string serial, byte[] body)
    {
        var json = XElement.Load(JsonReaderWriterFactory.CreateJsonReader(body, XmlDictionaryReaderQuotas.Max));
        var result = json.Elements("results").Elements().First();
        var verdict = result.Elements("verdict").First().Value;
        Console.WriteLine($"{serial} {verdict} {result.Elements("id").First().Value}");
        return verdict == "ok" ? 0 : verdict == "not_ok" ? 10 : 11;
    }

    // a digest of what names the shot, since headers are ASCII
    static string Digest(string serial, string station, byte[] picture)
    {
        using (var sha = SHA256.Create())
        {
            var named = Encoding.UTF8.GetBytes($"{serial}\n{station}\n").Concat(picture).ToArray();
            return BitConverter.ToString(sha.ComputeHash(named)).Replace("-", "").ToLowerInvariant();
        }
    }
}
